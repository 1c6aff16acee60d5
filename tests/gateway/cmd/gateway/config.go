package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"tykpy.test/gateway/internal/bundles"
	"tykpy.test/gateway/internal/coprocess"
)

// Config is the gateway's own configuration; options that Tyk has too have Tyk's names.
type Config struct {
	GrpcServer     string            `json:"coprocess_grpc_server"`
	RecvMaxSize    int               `json:"grpc_recv_max_size"`
	SendMaxSize    int               `json:"grpc_send_max_size"`
	RoundRobin     bool              `json:"grpc_round_robin_load_balancing"`
	Authority      string            `json:"grpc_authority"`
	Redis          string            `json:"redis_socket"`
	MiddlewarePath string            `json:"middleware_path"`
	BundleSource   string            `json:"bundle_source"` // a folder, in place of bundle_base_url
	PublicKey      string            `json:"public_key_path"`
	Policies       map[string]Policy `json:"policies"`
	APIs           []*API            `json:"apis"`
	Responses      map[string]Canned `json:"responses"` // of the upstream, by path
	NoTracing      bool              `json:"no_tracing"`
	NoLog          bool              `json:"no_log"` // calls are not remembered: for millions of them
	ProbeUnknown   bool              `json:"probe_unknown_fields"`
	MaxBodySize    int64             `json:"max_request_body_size"`
	Certificate    string            `json:"tls_certificate"` // PEM files; with them, clients use HTTPS
	PrivateKey     string            `json:"tls_key"`
}

// Policy has the fields of Tyk's policies.json that matter here.
type Policy struct {
	Rate             float64                     `json:"rate"`
	Per              float64                     `json:"per"`
	QuotaMax         int64                       `json:"quota_max"`
	QuotaRenewalRate int64                       `json:"quota_renewal_rate"`
	AccessRights     map[string]AccessDefinition `json:"access_rights"`
}

// API is one API definition. An empty Target means the gateway's own upstream.
type API struct {
	ID                 string           `json:"api_id"`
	OrgID              string           `json:"org_id"`
	ListenPath         string           `json:"listen_path"`
	Target             string           `json:"target_url"`
	Bundle             string           `json:"custom_middleware_bundle"`
	BundleDisabled     bool             `json:"custom_middleware_bundle_disabled"`
	Middleware         CustomMiddleware `json:"custom_middleware"`
	ConfigData         map[string]any   `json:"config_data"`
	ConfigDataDisabled bool             `json:"config_data_disabled"`
	UseStandardAuth    bool             `json:"use_standard_auth"`
	UseKeyless         bool             `json:"use_keyless"`
	EnablePluginAuth   bool             `json:"enable_coprocess_auth"`     // without it, the auth hook is not called
	BaseIdentity       string           `json:"base_identity_provided_by"` // whose session counts; "": the last
	Ignored            string           `json:"ignored"`                   // a path that needs no key
	Reply              OwnAnswer        `json:"reply"`                     // before any hook
	Mock               OwnAnswer        `json:"mock_response"`
	Virtual            OwnAnswer        `json:"virtual"`
	Cached             string           `json:"cached"` // a path whose responses are kept
	Rewrite            Rewrite          `json:"url_rewrite"`
	MethodTransform    MethodTransform  `json:"method_transform"`
	EventHandlers      struct {
		Events map[string][]EventHandler `json:"events"`
	} `json:"event_handlers"`
}

// postKeyAuth returns the hooks of an API that has keys.
func (a *API) postKeyAuth() []Hook {
	if a.UseKeyless {
		return nil
	}
	return a.Middleware.PostKeyAuth
}

// EventHandler is one entry of an API's event_handlers.
type EventHandler struct {
	HandlerName string `json:"handler_name"`
	HandlerMeta struct {
		Name string `json:"name"`
	} `json:"handler_meta"`
}

// Hook is one configured hook.
type Hook struct {
	Name        string             `json:"name"`
	Disabled    bool               `json:"disabled"`
	RawBodyOnly bool               `json:"raw_body_only"`
	Type        coprocess.HookType `json:"-"`
}

// CustomMiddleware is the section of that name in an API definition and in a manifest.
type CustomMiddleware struct {
	Driver      string      `json:"driver"`
	Pre         []Hook      `json:"pre"`
	AuthCheck   Hook        `json:"auth_check"`
	PostKeyAuth []Hook      `json:"post_key_auth"`
	Post        []Hook      `json:"post"`
	Response    []Hook      `json:"response"`
	IDExtractor IDExtractor `json:"id_extractor"`
}

func readConfig(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	config := &Config{}
	return config, json.Unmarshal(text, config)
}

// enabled returns the hooks that run, each knowing its type.
func enabled(hooks []Hook, kind coprocess.HookType) []Hook {
	var running []Hook
	for _, hook := range hooks {
		if !hook.Disabled && hook.Name != "" {
			hook.Type = kind
			running = append(running, hook)
		}
	}
	return running
}

// add appends the hooks of one more bundle, in order: Tyk's mergeBundleManifest (v5.15). All have the same driver, and
// at most one has an auth hook.
func (m *CustomMiddleware) add(other CustomMiddleware) error {
	if m.Driver != "" && other.Driver != m.Driver {
		return fmt.Errorf("driver %q, but earlier bundles have %q", other.Driver, m.Driver)
	}
	if m.AuthCheck.Name != "" && other.AuthCheck.Name != "" {
		return fmt.Errorf("auth_check %q, but another bundle has %q", other.AuthCheck.Name, m.AuthCheck.Name)
	}
	m.Driver = other.Driver
	m.Pre = append(m.Pre, other.Pre...)
	m.PostKeyAuth = append(m.PostKeyAuth, other.PostKeyAuth...)
	m.Post = append(m.Post, other.Post...)
	m.Response = append(m.Response, other.Response...)
	if other.AuthCheck.Name != "" {
		m.AuthCheck = other.AuthCheck
	}
	if m.IDExtractor.ExtractWith == "" {
		m.IDExtractor = other.IDExtractor
	}
	return nil
}

// loadBundles fetches and unpacks the API's bundles, checks them, and takes the hooks from their manifests.
func (c *Config) loadBundles(api *API) error {
	if api.Bundle == "" || api.BundleDisabled {
		return nil
	}
	folders := bundles.Folders(filepath.Join(c.MiddlewarePath, "bundles"), api.Bundle)
	var middleware CustomMiddleware
	for _, name := range bundles.Split(api.Bundle) {
		loaded, err := c.loadBundle(name, folders[name])
		if err != nil {
			return fmt.Errorf("bundle %s: %w", name, err)
		}
		if err := middleware.add(*loaded); err != nil {
			return fmt.Errorf("bundle %s: %w", name, err)
		}
	}
	api.Middleware = middleware
	return nil
}

func (c *Config) loadBundle(name, folder string) (*CustomMiddleware, error) {
	if err := bundles.Unpack(filepath.Join(c.BundleSource, name), folder); err != nil {
		return nil, err
	}
	files := os.DirFS(folder)
	manifest, err := bundles.ReadManifest(files)
	if err != nil {
		return nil, err
	}
	if err := c.verify(manifest, folder); err != nil {
		return nil, err
	}
	text, err := json.Marshal(manifest["custom_middleware"])
	if err != nil {
		return nil, err
	}
	middleware := &CustomMiddleware{}
	return middleware, json.Unmarshal(text, middleware)
}

func (c *Config) verify(manifest bundles.Manifest, folder string) error {
	if c.PublicKey == "" {
		return manifest.Verify(os.DirFS(folder), nil)
	}
	key, err := bundles.ReadPublicKey(c.PublicKey)
	if err != nil {
		return err
	}
	return manifest.Verify(os.DirFS(folder), key)
}
