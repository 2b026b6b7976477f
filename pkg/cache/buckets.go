package cache

// Buckets are where the records of this package are in the store: everything in them can be made again.
func Buckets() []string { return []string{stepsBucket, positionsBucket, filesBucket} }
