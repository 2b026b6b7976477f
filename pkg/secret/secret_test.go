package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestValueIsNeverPrinted(t *testing.T) {
	v := New([]byte("hunter2"))
	holder := struct{ V Value }{v}
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		out = append(out, fmt.Sprintf(verb, v), fmt.Sprintf(verb, &v), fmt.Sprintf(verb, holder), fmt.Sprintf(verb, []Value{v}))
	}
	data, err := json.Marshal(map[string]any{"v": v, "p": &v, "h": holder})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v, "h", holder)
	out = append(out, string(data), log.String(), fmt.Errorf("with %v", v).Error())
	for _, s := range out {
		for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), "104 117 110"} {
			if strings.Contains(s, leak) {
				t.Errorf("the secret is in %q", s)
			}
		}
	}
	if string(v.Reveal()) != "hunter2" {
		t.Errorf("Reveal returns %q", v.Reveal())
	}
}
