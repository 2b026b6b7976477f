package language

func hostileTables() []table { return nil }
