package enginetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// apiVersion is what Debian 12's Docker speaks.
const apiVersion = "1.41"

func (e *Engine) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_ping", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", apiVersion)
		w.Write([]byte("OK"))
	})
	mux.HandleFunc("GET /{version}/containers/{name}/json", e.inspect)
	mux.HandleFunc("GET /{version}/events", e.events)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		odd := e.odd
		e.requests++
		e.mu.Unlock()
		if odd != nil && odd(w, r) {
			return
		}
		if v := strings.Split(r.URL.Path, "/")[1]; v != "_ping" && v != "v"+apiVersion {
			refuse(w, http.StatusBadRequest, "client version "+v+" is too new. Maximum supported API version is "+apiVersion)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, message string) {
	reply(w, status, map[string]string{"message": message})
}

// lookup finds containers as Docker does: by id, by name, by the begin of an id.
func (e *Engine) lookup(name string) (found []*Container) {
	for _, fits := range []func(c *Container) bool{
		func(c *Container) bool { return c.ID == name },
		func(c *Container) bool { return c.Name == strings.TrimPrefix(name, "/") },
		func(c *Container) bool { return strings.HasPrefix(c.ID, name) },
	} {
		for _, c := range e.all() {
			if fits(c) {
				found = append(found, c)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// named is the container of a name or id; nil: there is none, or several.
func (e *Engine) named(name string) *Container {
	if found := e.lookup(name); len(found) == 1 {
		return found[0]
	}
	return nil
}

func (e *Engine) inspect(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	switch found := e.lookup(name); len(found) {
	case 0:
		refuse(w, http.StatusNotFound, "No such container: "+name)
	case 1:
		reply(w, http.StatusOK, found[0].inspected())
	default:
		refuse(w, http.StatusInternalServerError, "Multiple IDs found with provided prefix: "+name)
	}
}

// inspected is what Docker tells of a container, as far as anybody here asks.
func (c *Container) inspected() any {
	pid, status := c.PID(), "exited"
	if pid != 0 {
		status = "running"
	}
	mode := c.options.NetworkMode
	if mode == "" {
		mode = "default"
	}
	return map[string]any{
		"Id": c.ID, "Name": "/" + c.Name, "Created": "2026-01-01T00:00:00.000000000Z",
		"State":      map[string]any{"Status": status, "Running": pid != 0, "Pid": pid},
		"HostConfig": map[string]any{"NetworkMode": mode},
		"Config":     map[string]any{"Image": "box"},
	}
}

// events sends what is remembered since the time asked for, and what happens from now
// on.
func (e *Engine) events(w http.ResponseWriter, r *http.Request) {
	var filters map[string]map[string]bool
	if text := r.URL.Query().Get("filters"); text != "" {
		if err := json.Unmarshal([]byte(text), &filters); err != nil {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("invalid filters: %v", err))
			return
		}
	}
	since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
	if err != nil {
		since = time.Now().Unix() + 1
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	flush.Flush()
	l := make(chan event, maxPast)
	e.mu.Lock()
	past := e.past
	if e.server == nil {
		close(l)
	} else {
		e.listeners[l] = true
	}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.listeners, l)
		e.mu.Unlock()
	}()
	send := func(ev event) error {
		if types := filters["type"]; len(types) > 0 && !types[ev.Type] {
			return nil
		}
		if err := json.NewEncoder(w).Encode(ev); err != nil {
			return err
		}
		return flush.Flush()
	}
	for _, ev := range past {
		if ev.Time >= since && send(ev) != nil {
			return
		}
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case ev, ok := <-l:
			if !ok || send(ev) != nil {
				return
			}
		}
	}
}
