package layer

// UnusableError is a layer whose bytes cannot be had from where they are said to be, or are not what its digests and sizes say. Who got
// the layer from somebody else's cache can make it anew.
type UnusableError struct {
	Layer Layer
	Err   error
}

func (e *UnusableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnusableError) Unwrap() error { return e.Err }
