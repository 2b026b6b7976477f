package progress

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// Renderer shows a build to somebody. Close shows what is left and ends what runs in the background; it returns the first
// error that writing met. Events after Close are dropped.
type Renderer interface {
	Sink
	Close() error
}

// Options are what New must know of the place.
type Options struct {
	// Term is the type of the terminal, as in the environment's TERM. "dumb" is never drawn on.
	Term string
	// NoColor draws without colours (https://no-color.org).
	NoColor bool
}

// New returns the renderer for a mode of --progress: "auto" and "" (tty on a terminal, otherwise plain), "tty" (an error
// without a terminal), "plain", "rawjson" or "quiet".
func New(mode string, w io.Writer, o Options) (Renderer, error) {
	switch mode {
	case "plain":
		return Plain(w), nil
	case "rawjson":
		return RawJSON(w), nil
	case "quiet":
		return Quiet(), nil
	case "", "auto", "tty":
	default:
		return nil, fmt.Errorf("unknown progress mode %q: want auto, plain, tty, rawjson or quiet", mode)
	}
	f, ok := w.(*os.File)
	if ok = ok && term.IsTerminal(int(f.Fd())); ok && (o.Term != "dumb" || mode == "tty") {
		return TTY(f, TTYOptions{NoColor: o.NoColor, Size: func() (int, int) {
			cols, rows, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 0, 0
			}
			return cols, rows
		}}), nil
	}
	if mode == "tty" {
		return nil, fmt.Errorf("progress mode tty needs a terminal")
	}
	return Plain(w), nil
}

// Quiet returns a renderer that shows nothing.
func Quiet() Renderer { return quiet{} }

type quiet struct{ discard }

func (quiet) Close() error { return nil }
