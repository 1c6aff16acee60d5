package main

import (
	"encoding/json"
	"net/http"
	"sync"

	"tykpy.test/gateway/internal/coprocess"
)

// Dispatched is one call that was made.
type Dispatched struct {
	HookType string `json:"hook_type"`
	HookName string `json:"hook_name"`
	APIID    string `json:"api_id"`
}

// dispatchLog remembers the calls, oldest first.
type dispatchLog struct {
	lock  sync.Mutex
	calls []Dispatched
}

func (l *dispatchLog) add(object *coprocess.Object) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.calls = append(l.calls, Dispatched{object.HookType.String(), object.HookName, object.Spec["APIID"]})
}

func (l *dispatchLog) of(api string) []Dispatched {
	l.lock.Lock()
	defer l.lock.Unlock()
	calls := []Dispatched{}
	for _, call := range l.calls {
		if call.APIID == api {
			calls = append(calls, call)
		}
	}
	return calls
}

// EventEnd is the result of one event; Error is empty if it succeeded.
type EventEnd struct {
	Handler string `json:"handler"`
	Error   string `json:"error"`
	APIID   string `json:"api_id"`
}

// eventLog remembers the results of events.
type eventLog struct {
	lock sync.Mutex
	ends []EventEnd
}

func (l *eventLog) add(api, handler string, err error) {
	end := EventEnd{Handler: handler, APIID: api}
	if err != nil {
		end.Error = err.Error()
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	l.ends = append(l.ends, end)
}

func (l *eventLog) of(api string) []EventEnd {
	l.lock.Lock()
	defer l.lock.Unlock()
	ends := []EventEnd{}
	for _, end := range l.ends {
		if end.APIID == api {
			ends = append(ends, end)
		}
	}
	return ends
}

// control is the test's interface: it adds APIs and returns what was done. A real gateway downloads its bundles here.
func (g *Gateway) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apis", g.postAPI)
	mux.HandleFunc("GET /dispatches/{api}", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, g.dispatches.of(r.PathValue("api")))
	})
	mux.HandleFunc("GET /events/{api}", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, g.events.of(r.PathValue("api")))
	})
	mux.Handle("GET /bundles/", http.StripPrefix("/bundles/", http.FileServer(http.Dir(g.config.BundleSource))))
	return mux
}

func (g *Gateway) postAPI(w http.ResponseWriter, r *http.Request) {
	api := &API{}
	err := json.NewDecoder(r.Body).Decode(api)
	if err == nil {
		err = g.add(api)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
