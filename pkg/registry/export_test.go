package registry

// SetMonolithic sets the size in bytes from which on a blob is uploaded in a chunk that can be taken up again.
func SetMonolithic(c *Client, n int64) { c.monolithic = n }
