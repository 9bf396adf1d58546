package lvs

import "slices"

// Error is why a table refuses a change, in the words that ipvsadm prints. Such a change has changed nothing.
type Error string

// The reasons of a refusal, with the commands that they are for where there are two of a kind.
const (
	ErrServiceExists Error = "Service already exists"
	ErrNoService     Error = "No such service"     // -D -E -Z -L
	ErrNotDefined    Error = "Service not defined" // -a -e -d
	ErrServerExists  Error = "Destination already exists"
	ErrNoServer      Error = "No such destination"
	ErrNoScheduler   Error = "Scheduler or persistence engine not found"
	ErrRange         Error = "Numerical result out of range" // thresholds
	ErrInvalid       Error = "Invalid operation.  Possibly wrong module version, address not unicast, ..."
)

func (e Error) Error() string { return string(e) }

// Server is a real server of a service: name, configuration, and what it carries.
type Server struct {
	ServerID
	ServerConfig
	LastWeight int32 // the last weight that was not 0; 0 if there was none since the server was added
	Load       Load
	Stats      Stats
	Rates      Rates
	Edited     bool // the configuration was given anew, if only with the same values: schedulers may begin their round again
	Carried    bool // the counters are to be Stats when the table is committed
}

// Draining says whether a server that had a weight takes no new connections any more.
func (s *Server) Draining() bool { return s.Weight == 0 && s.LastWeight > 0 }

// Service is a virtual service with its real servers: name, configuration, and what it carries.
type Service struct {
	ServiceID
	ServiceConfig
	Servers []*Server   // newest first, as the kernel keeps and schedules them
	Locals  []LocalAddr // for FULLNAT; none: those that all share
	Stats   Stats
	Rates   Rates
	Zeroed  bool // the counters are to start again when the table is committed
	Carried bool // its own are to be Stats then
}

// Server finds a real server by name; nil if the service has none such.
func (s *Service) Server(id ServerID) *Server {
	for _, d := range s.Servers {
		if d.ServerID == id {
			return d
		}
	}
	return nil
}

// Table is the whole configuration of a director, and the rules of the kernel about changing it. The zero
// value is the empty table. Changing a Table changes nothing else: a director reads its own, has it changed,
// and commits the difference.
type Table struct {
	Timeouts Timeouts    // a zero means the default
	Locals   []LocalAddr // for FULLNAT, what services share that have none of their own
	services []*Service  // oldest first
	index    map[ServiceID]*Service
}

// Services gives all services, oldest first. The slice is the table's own.
func (t *Table) Services() []*Service { return t.services }

// Service finds a service by name; nil if there is none.
func (t *Table) Service(id ServiceID) *Service { return t.index[id] }

// AddService adds a service without servers. It answers [ErrServiceExists], [ErrNoScheduler] or [ErrInvalid].
func (t *Table) AddService(id ServiceID, c ServiceConfig) error {
	if t.index[id] != nil {
		return ErrServiceExists
	}
	if err := c.check(id); err != nil {
		return err
	}
	t.Put(&Service{ServiceID: id, ServiceConfig: c})
	return nil
}

// Put places a service as it is, unchecked: for whoever fills a table from where it is kept.
func (t *Table) Put(s *Service) {
	if t.index == nil {
		t.index = map[ServiceID]*Service{}
	}
	t.index[s.ServiceID] = s
	t.services = append(t.services, s)
}

// EditService replaces the configuration of a service. It answers [ErrNoService], [ErrNoScheduler] or [ErrInvalid].
func (t *Table) EditService(id ServiceID, c ServiceConfig) error {
	s := t.index[id]
	if s == nil {
		return ErrNoService
	}
	if err := c.check(id); err != nil {
		return err
	}
	s.ServiceConfig = c
	return nil
}

// DeleteService removes a service with its servers. It answers [ErrNoService].
func (t *Table) DeleteService(id ServiceID) error {
	s := t.index[id]
	if s == nil {
		return ErrNoService
	}
	delete(t.index, id)
	t.services = slices.DeleteFunc(t.services, func(o *Service) bool { return o == s })
	return nil
}

// Zero lets the counters of a service and its servers start again, or those of all services if id is nil.
// It answers [ErrNoService].
func (t *Table) Zero(id *ServiceID) error {
	all := t.services
	if id != nil {
		s := t.index[*id]
		if s == nil {
			return ErrNoService
		}
		all = []*Service{s}
	}
	for _, s := range all {
		s.Zeroed = true
		s.Stats, s.Rates = Stats{}, Rates{}
		for _, d := range s.Servers {
			d.Stats, d.Rates = Stats{}, Rates{}
		}
	}
	return nil
}

// Carry gives a service, or the server that is named, counters that it had elsewhere. One that is not there, or has counted something here,
// stays as it is.
func (t *Table) Carry(id ServiceID, server *ServerID, counted Stats) {
	s := t.index[id]
	if s == nil {
		return
	}
	if server == nil {
		if s.Stats == (Stats{}) {
			s.Stats, s.Carried = counted, true
		}
		return
	}
	if d := s.Server(*server); d != nil && d.Stats == (Stats{}) {
		d.Stats, d.Carried = counted, true
	}
}

// SetTimeouts changes the time-outs that are not zero in to.
func (t *Table) SetTimeouts(to Timeouts) {
	for _, f := range []struct{ now, to *uint32 }{
		{&t.Timeouts.TCP, &to.TCP},
		{&t.Timeouts.TCPFin, &to.TCPFin},
		{&t.Timeouts.UDP, &to.UDP},
	} {
		if *f.to != 0 {
			*f.now = *f.to
		}
	}
}

// Clear removes all services. Time-outs and what services share stay.
func (t *Table) Clear() { t.services, t.index = nil, nil }

// AddServer puts a server at the head of its service's list. It answers [ErrNotDefined], [ErrServerExists],
// [ErrRange] or [ErrInvalid].
func (t *Table) AddServer(svc ServiceID, id ServerID, c ServerConfig) error {
	s := t.index[svc]
	if s == nil {
		return ErrNotDefined
	}
	if err := c.check(s, id); err != nil {
		return err
	}
	if s.Server(id) != nil {
		return ErrServerExists
	}
	if !canServe(id.Addr) {
		return ErrInvalid
	}
	s.Servers = slices.Insert(s.Servers, 0, &Server{ServerID: id, ServerConfig: c})
	return nil
}

// EditServer replaces the configuration of a server, which keeps its place. It answers [ErrNotDefined],
// [ErrNoServer], [ErrRange] or [ErrInvalid].
func (t *Table) EditServer(svc ServiceID, id ServerID, c ServerConfig) error {
	s := t.index[svc]
	if s == nil {
		return ErrNotDefined
	}
	if err := c.check(s, id); err != nil {
		return err
	}
	d := s.Server(id)
	if d == nil {
		return ErrNoServer
	}
	d.ServerConfig = c
	d.Edited = true
	return nil
}

// DeleteServer removes a server. It answers [ErrNotDefined] or [ErrNoServer].
func (t *Table) DeleteServer(svc ServiceID, id ServerID) error {
	s := t.index[svc]
	if s == nil {
		return ErrNotDefined
	}
	i := slices.IndexFunc(s.Servers, func(d *Server) bool { return d.ServerID == id })
	if i < 0 {
		return ErrNoServer
	}
	s.Servers = slices.Delete(s.Servers, i, i+1)
	return nil
}
