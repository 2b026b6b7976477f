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

func TestEpoch(t *testing.T) {
	t.Parallel()
	if at, err := (environment{}).epoch(); at != nil || err != nil {
		t.Errorf("no variable: %v, %v", at, err)
	}
	if at, err := (environment{"SOURCE_DATE_EPOCH": "86400"}).epoch(); err != nil || at.Format("2006-01-02") != "1970-01-02" {
		t.Errorf("86400: %v, %v", at, err)
	}
	if _, err := (environment{"SOURCE_DATE_EPOCH": "yesterday"}).epoch(); err == nil {
		t.Error("yesterday was taken")
	}
}

func TestProxies(t *testing.T) {
	t.Parallel()
	got := environment{"http_proxy": "a", "NO_PROXY": "b", "HTTPS_PROXY": "", "PATH": "c"}.proxies()
	if want := map[string]string{"http_proxy": "a", "NO_PROXY": "b"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
