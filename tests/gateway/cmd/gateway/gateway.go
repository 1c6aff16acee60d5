package main

import (
	"errors"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"tykpy.test/gateway/internal/coprocess"
)

// idleConnections is the number of idle connections per upstream, like Tyk's max_idle_connections_per_host.
const idleConnections = 500

// Gateway is the HTTP handler that clients see.
type Gateway struct {
	config     *Config
	conn       *grpc.ClientConn
	client     coprocess.DispatcherClient
	keys       *keyStore
	transport  *http.Transport
	upstream   string
	dispatches dispatchLog
	events     eventLog
	cache      cache

	lock sync.RWMutex
	apis []*API
}

func newGateway(config *Config) (*Gateway, error) {
	conn, err := dial(config)
	if err != nil {
		return nil, err
	}
	gateway := &Gateway{
		config: config, conn: conn, client: coprocess.NewDispatcherClient(conn), keys: openKeyStore(config.Redis),
		transport: &http.Transport{MaxIdleConnsPerHost: idleConnections},
	}
	for _, api := range config.APIs {
		if err := gateway.add(api); err != nil {
			return nil, err
		}
	}
	return gateway, nil
}

// Close ends the connections.
func (g *Gateway) Close() error {
	return errors.Join(g.conn.Close(), g.keys.client.Close())
}

// add loads an API's bundles and then serves it. It replaces an API with the same listen path.
func (g *Gateway) add(api *API) error {
	if err := g.config.loadBundles(api); err != nil {
		return err
	}
	g.lock.Lock()
	defer g.lock.Unlock()
	g.apis = append([]*API{api}, g.apis...)
	return nil
}

func (g *Gateway) find(path string) *API {
	g.lock.RLock()
	defer g.lock.RUnlock()
	for _, api := range g.apis {
		if strings.HasPrefix(path, api.ListenPath) {
			return api
		}
	}
	return nil
}

// ServeHTTP runs a request through its API's chain. A crash of the chain is net/http's, as in Tyk: the connection drops,
// and the log has the reason.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	api := g.find(r.URL.Path)
	if api == nil {
		http.NotFound(w, r)
		return
	}
	newPassage(g, api, w, r).run()
}
