package main

import (
	"net/http"
	"strconv"
	"strings"
)

const markPrefix = "X-Bench-"

// serveUpstream answers with a short text, and a header with the number of headers that the hooks have set.
func serveUpstream(address string) error {
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		marks := 0
		for name := range r.Header {
			if strings.HasPrefix(name, markPrefix) {
				marks++
			}
		}
		w.Header().Set("X-Marks", strconv.Itoa(marks))
		_, _ = w.Write([]byte("hello\n"))
	}))
}
