package main

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"sync"
)

// Canned is the upstream's answer on one path; on others it answers with what it received, as JSON.
type Canned struct {
	Status  int        `json:"status"`
	Headers [][]string `json:"headers"`
	Body    string     `json:"body"` // base64
}

// Received is one request as the upstream saw it.
type Received struct {
	Method  string              `json:"method"`
	URL     string              `json:"url"`
	Host    string              `json:"host"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"` // base64
}

const receivedPath = "/_received"

// upstream remembers the requests since it was last asked for them.
type upstream struct {
	responses map[string]Canned
	lock      sync.Mutex
	received  []Received
}

func newUpstream(responses map[string]Canned) *upstream {
	return &upstream{responses: responses, received: []Received{}}
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == receivedPath {
		writeJSON(w, u.take())
		return
	}
	body, _ := io.ReadAll(r.Body)
	received := Received{r.Method, r.URL.String(), r.Host, r.Header, base64.StdEncoding.EncodeToString(body)}
	u.lock.Lock()
	u.received = append(u.received, received)
	u.lock.Unlock()
	if canned, found := u.responses[r.URL.Path]; found {
		canned.write(w)
		return
	}
	writeJSON(w, received)
}

func (u *upstream) take() []Received {
	u.lock.Lock()
	defer u.lock.Unlock()
	taken := u.received
	u.received = []Received{}
	return taken
}

func (c Canned) write(w http.ResponseWriter) {
	body, err := base64.StdEncoding.DecodeString(c.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, header := range c.Headers {
		w.Header().Add(header[0], header[1])
	}
	w.WriteHeader(c.Status)
	_, _ = w.Write(body)
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}
