package main

import (
	"reflect"
	"testing"
)

func TestDataRoot(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		env  environment
		want string
	}{
		{environment{"XDG_DATA_HOME": "/data", "HOME": "/home/ann"}, "/data/cairn"},
		{environment{"HOME": "/home/ann"}, "/home/ann/.local/share/cairn"},
		{environment{"XDG_DATA_HOME": "relative", "HOME": "/home/ann"}, "/home/ann/.local/share/cairn"},
		{environment{}, ""},
		{environment{"HOME": "relative"}, ""},
	} {
		got, err := tc.env.dataRoot()
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%v: %q, %v; want %q", tc.env, got, err, tc.want)
		}
	}
}

func TestProxies(t *testing.T) {
	t.Parallel()
	got := environment{"http_proxy": "a", "NO_PROXY": "b", "HTTPS_PROXY": "", "PATH": "c"}.proxies()
	if want := map[string]string{"http_proxy": "a", "NO_PROXY": "b"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
