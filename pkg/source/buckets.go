package source

// Buckets are where the records of this package are in the store: everything in them can be fetched again.
func Buckets() []string { return []string{tagBucket, keptBucket} }
