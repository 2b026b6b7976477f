package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"

	"github.com/cairn-build/cairn/pkg/userns"
)

// argument and marker are what makes a start of the program a worker's (userns.Main).
const (
	argument = "cairn-worker"
	marker   = "_CAIRN_WORKER"
	// controlFD is where the worker finds its socket: the first descriptor after the three streams.
	controlFD = 3
)

// Service is what a worker does.
type Service interface {
	// Handle carries out one request. ctx ends when the caller gives up.
	Handle(ctx context.Context, r *Request) (result any, err error)
	// Close ends what the service runs and gives back what it holds. No call is under way.
	Close() error
}

// Request is one call as the service sees it.
type Request struct {
	Method string
	Params json.RawMessage
	// Files are those that came with the call. They are closed when Handle returns, those apart that it has taken.
	Files []*os.File

	mu  sync.Mutex
	enc *json.Encoder
}

// Decode reads the parameters.
func (r *Request) Decode(into any) error {
	if err := json.Unmarshal(r.Params, into); err != nil {
		return WithKind(Invalid, fmt.Errorf("%s: reading the request: %w", r.Method, err))
	}
	return nil
}

// Take returns the file number i and leaves it to the caller to close; nil if there is none.
func (r *Request) Take(i int) *os.File {
	if i >= len(r.Files) {
		return nil
	}
	f := r.Files[i]
	r.Files[i] = nil
	return f
}

// Emit sends an event to the caller, who may be gone.
func (r *Request) Emit(event any) {
	data, err := json.Marshal(event)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.enc.Encode(answer{Event: data})
}

// Register makes the program a worker when it is started as one, with the Service that open makes. It is called while package
// variables are initialised,
//
//	var _ = worker.Register("engine", open)
//
// so that a program only has to import the package that says so. The result means nothing.
func Register(name string, open func() (Service, error)) bool {
	return userns.Main(argument, marker, name, func() int { return serve(open) })
}

// serve is the whole life of a launcher, and of a worker.
func serve(open func() (Service, error)) (code int) {
	done, code, err := userns.EnterAs(userns.Auto)
	if err == nil && !done {
		err = run(open)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func run(open func() (Service, error)) error {
	control, err := unixConn(os.NewFile(controlFD, "worker"))
	if err != nil {
		return fmt.Errorf("opening the worker's socket: %w", err)
	}
	s, err := open()
	if err != nil {
		return err
	}
	if err := sendHello(control); err != nil {
		return fmt.Errorf("greeting the program: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	for {
		files, err := receiveFiles(control)
		if err != nil {
			break // the program has closed its worker, or is gone
		}
		calls.Go(func() { answerCall(ctx, s, files) })
	}
	cancel()
	calls.Wait()
	return s.Close()
}

// answerCall carries out one call: its socket is the first of files.
func answerCall(ctx context.Context, s Service, files []*os.File) {
	if len(files) == 0 {
		return
	}
	conn, err := unixConn(files[0])
	if err != nil {
		return
	}
	defer conn.Close()
	r := &Request{Files: files[1:], enc: json.NewEncoder(conn)}
	defer func() {
		for _, f := range r.Files {
			if f != nil {
				f.Close()
			}
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var in request
	d := json.NewDecoder(conn)
	if err := d.Decode(&in); err != nil {
		return
	}
	r.Method, r.Params = in.Method, in.Params
	go watch(conn, d, cancel)
	result, err := handle(ctx, s, r)
	a := answer{}
	if err == nil {
		a.Result, err = json.Marshal(result)
	}
	if err != nil {
		a = answer{Error: encodeError(err)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.enc.Encode(a)
}

// watch cancels a call when its caller closes the request's direction.
func watch(conn net.Conn, d *json.Decoder, cancel func()) {
	_, _ = io.Copy(io.Discard, io.MultiReader(d.Buffered(), conn))
	cancel()
}

// handle turns a panic of one call into its error: the other calls, and their containers, go on.
func handle(ctx context.Context, s Service, r *Request) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: this is a bug: %v\n%s", r.Method, p, debug.Stack())
		}
	}()
	return s.Handle(ctx, r)
}
