package vspheretest

import (
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// maxPage is how many events or tasks are returned at once at most.
const maxPage = 1000

// A cursor is a place in a history and the size of its latest page.
type cursor struct {
	mu    sync.Mutex
	fresh bool // nothing was read yet: forwards from the start, backwards from the end
	pos   int  // the item that is read next, forwards
	size  int
}

// next picks up to most items after the cursor, oldest first; prev before it, newest first.
func (c *cursor) next(n int, most int, ok func(int) bool) (picked []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh {
		c.fresh, c.pos = false, 0
	}
	for ; c.pos < n && len(picked) < most; c.pos++ {
		if ok(c.pos) {
			picked = append(picked, c.pos)
		}
	}
	return picked
}

func (c *cursor) prev(n int, most int, ok func(int) bool) (picked []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh {
		c.fresh, c.pos = false, n
	}
	for ; c.pos > 0 && len(picked) < most; c.pos-- {
		if ok(c.pos - 1) {
			picked = append(picked, c.pos-1)
		}
	}
	return picked
}

// latest picks the newest items, newest first.
func (c *cursor) latest(n int, ok func(int) bool) []int {
	c.mu.Lock()
	size := c.size
	c.mu.Unlock()
	return (&cursor{fresh: true}).prev(n, size, ok)
}

func pageSizeOf(asked int32, none int) (int, *soap.Fault) {
	switch {
	case asked == 0:
		return none, nil
	case asked < 0 || asked > maxPage:
		return 0, soapFault(&types.InvalidArgument{InvalidProperty: "maxCount"})
	}
	return int(asked), nil
}

// SetCollectorPageSize, RewindCollector and ResetCollector are methods of both collectors.
func (c *cursor) SetCollectorPageSize(_ *simulator.Context, req *types.SetCollectorPageSize) soap.HasFault {
	size, f := pageSizeOf(req.MaxCount, 10)
	if f != nil {
		return &methods.SetCollectorPageSizeBody{Fault_: f}
	}
	c.mu.Lock()
	c.size = size
	c.mu.Unlock()
	return &methods.SetCollectorPageSizeBody{Res: &types.SetCollectorPageSizeResponse{}}
}

func (c *cursor) RewindCollector(*simulator.Context, *types.RewindCollector) soap.HasFault {
	c.mu.Lock()
	c.fresh, c.pos = false, 0
	c.mu.Unlock()
	return &methods.RewindCollectorBody{Res: &types.RewindCollectorResponse{}}
}

func (c *cursor) ResetCollector(*simulator.Context, *types.ResetCollector) soap.HasFault {
	c.mu.Lock()
	c.fresh, c.pos = false, int(^uint(0)>>1)
	c.mu.Unlock()
	return &methods.ResetCollectorBody{Res: &types.ResetCollectorResponse{}}
}

func (c *cursor) DestroyCollector(ctx *simulator.Context, req *types.DestroyCollector) soap.HasFault {
	ctx.Session.Remove(ctx, req.This)
	return &methods.DestroyCollectorBody{Res: &types.DestroyCollectorResponse{}}
}

// clamp brings a cursor that was put at the end to where the end is now.
func (c *cursor) clamp(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pos = min(c.pos, n)
}

// An eventCollector is an EventHistoryCollector on all that ever happened; vcsim keeps a
// thousand events.
type eventCollector struct {
	mo.EventHistoryCollector
	*cursor
	s      *Server
	filter types.EventFilterSpec
}

func (v *verbs) CreateCollectorForEvents(ctx *simulator.Context, req *types.CreateCollectorForEvents) soap.HasFault {
	size, f := pageSizeOf(req.Filter.MaxCount, 10)
	if f != nil {
		return &methods.CreateCollectorForEventsBody{Fault_: f}
	}
	c := &eventCollector{cursor: &cursor{fresh: true, size: size}, s: v.s, filter: req.Filter}
	c.Self = sessionRef(ctx, "EventHistoryCollector")
	c.Filter = req.Filter
	ctx.Session.Put(c)
	return &methods.CreateCollectorForEventsBody{Res: &types.CreateCollectorForEventsResponse{Returnval: c.Self}}
}

// QueryEvents returns the newest events that match, newest first.
func (v *verbs) QueryEvents(_ *simulator.Context, req *types.QueryEvents) soap.HasFault {
	size, f := pageSizeOf(req.Filter.MaxCount, maxPage)
	if f != nil {
		return &methods.QueryEventsBody{Fault_: f}
	}
	all := v.s.history()
	c := &cursor{size: size}
	picked := c.latest(len(all), func(i int) bool { return all[i].matches(&req.Filter, v.s.root()) })
	return &methods.QueryEventsBody{Res: &types.QueryEventsResponse{Returnval: eventsAt(all, picked)}}
}

// PostEvent adds an event of a client's own.
func (v *verbs) PostEvent(ctx *simulator.Context, req *types.PostEvent) soap.HasFault {
	v.s.post(ctx, deepCopy(req.EventToPost))
	return &methods.PostEventBody{Res: &types.PostEventResponse{}}
}

// root is the folder that all lies in, and events about nothing in particular.
func (s *Server) root() types.ManagedObjectReference { return contentOf(s.model.Map()).RootFolder }

func (s *Server) history() []record {
	s.histMu.Lock()
	defer s.histMu.Unlock()
	return slices.Clip(s.events)
}

func eventsAt(all []record, at []int) (out []types.BaseEvent) {
	for _, i := range at {
		out = append(out, all[i].event)
	}
	return out
}

func (c *eventCollector) ReadNextEvents(_ *simulator.Context, req *types.ReadNextEvents) soap.HasFault {
	all := c.s.history()
	c.clamp(len(all))
	picked := c.next(len(all), int(req.MaxCount), func(i int) bool { return all[i].matches(&c.filter, c.s.root()) })
	return &methods.ReadNextEventsBody{Res: &types.ReadNextEventsResponse{Returnval: eventsAt(all, picked)}}
}

func (c *eventCollector) ReadPreviousEvents(_ *simulator.Context, req *types.ReadPreviousEvents) soap.HasFault {
	all := c.s.history()
	c.clamp(len(all))
	picked := c.prev(len(all), int(req.MaxCount), func(i int) bool { return all[i].matches(&c.filter, c.s.root()) })
	return &methods.ReadPreviousEventsBody{Res: &types.ReadPreviousEventsResponse{Returnval: eventsAt(all, picked)}}
}

// Get is what vcsim reads the collector's properties from.
func (c *eventCollector) Get() mo.Reference {
	all := c.s.history()
	out := c.EventHistoryCollector
	out.LatestPage = eventsAt(all, c.latest(len(all), func(i int) bool { return all[i].matches(&c.filter, c.s.root()) }))
	return &out
}

// A taskCollector is a TaskHistoryCollector.
type taskCollector struct {
	mo.TaskHistoryCollector
	*cursor
	s      *Server
	filter types.TaskFilterSpec
}

func (v *verbs) CreateCollectorForTasks(ctx *simulator.Context, req *types.CreateCollectorForTasks) soap.HasFault {
	c := &taskCollector{cursor: &cursor{fresh: true, size: 10}, s: v.s, filter: req.Filter}
	c.Self = sessionRef(ctx, "TaskHistoryCollector")
	c.Filter = req.Filter
	ctx.Session.Put(c)
	return &methods.CreateCollectorForTasksBody{Res: &types.CreateCollectorForTasksResponse{Returnval: c.Self}}
}

// tasks returns what all tasks say now, oldest first; forgotten ones say what they said last.
func (s *Server) taskHistory() []types.TaskInfo {
	s.histMu.Lock()
	list := slices.Clip(s.tasks)
	s.histMu.Unlock()
	ctx := s.context(nil)
	out := make([]types.TaskInfo, len(list))
	for i, t := range list {
		ctx.WithLock(t.Self, func() { out[i] = deepCopy(t.Info) })
	}
	return out
}

func (c *taskCollector) matches(info *types.TaskInfo) bool {
	f := &c.filter
	if len(f.State) > 0 && !slices.Contains(f.State, info.State) {
		return false
	}
	if t := f.Time; t != nil {
		at := &info.QueueTime
		switch t.TimeType {
		case types.TaskFilterSpecTimeOptionStartedTime:
			at = info.StartTime
		case types.TaskFilterSpecTimeOptionCompletedTime:
			at = info.CompleteTime
		}
		if at == nil || t.BeginTime != nil && at.Before(*t.BeginTime) || t.EndTime != nil && at.After(*t.EndTime) {
			return false
		}
	}
	if u := f.UserName; u != nil {
		r, _ := info.Reason.(*types.TaskReasonUser)
		if r == nil || !slices.Contains(u.UserList, r.UserName) {
			return false
		}
	}
	if e := f.Entity; e != nil {
		if info.Entity == nil {
			return false
		}
		self := *info.Entity == e.Entity
		below := slices.Contains(ancestors(c.s.context(nil), *info.Entity), e.Entity)
		switch e.Recursion {
		case types.TaskFilterSpecRecursionOptionSelf:
			return self
		case types.TaskFilterSpecRecursionOptionChildren:
			return below
		default:
			return self || below
		}
	}
	return true
}

func tasksAt(all []types.TaskInfo, at []int) (out []types.TaskInfo) {
	for _, i := range at {
		out = append(out, all[i])
	}
	return out
}

func (c *taskCollector) ReadNextTasks(_ *simulator.Context, req *types.ReadNextTasks) soap.HasFault {
	all := c.s.taskHistory()
	c.clamp(len(all))
	picked := c.next(len(all), int(req.MaxCount), func(i int) bool { return c.matches(&all[i]) })
	return &methods.ReadNextTasksBody{Res: &types.ReadNextTasksResponse{Returnval: tasksAt(all, picked)}}
}

func (c *taskCollector) ReadPreviousTasks(_ *simulator.Context, req *types.ReadPreviousTasks) soap.HasFault {
	all := c.s.taskHistory()
	c.clamp(len(all))
	picked := c.prev(len(all), int(req.MaxCount), func(i int) bool { return c.matches(&all[i]) })
	return &methods.ReadPreviousTasksBody{Res: &types.ReadPreviousTasksResponse{Returnval: tasksAt(all, picked)}}
}

// Get is what vcsim reads the collector's properties from.
func (c *taskCollector) Get() mo.Reference {
	all := c.s.taskHistory()
	out := c.TaskHistoryCollector
	out.LatestPage = tasksAt(all, c.latest(len(all), func(i int) bool { return c.matches(&all[i]) }))
	return &out
}

// eventInfo describes the events that vcsim's list lacks.
var eventInfo = []types.EventDescriptionEventDetail{
	{Key: "TaskEvent", Description: "Task event", Category: "info"},
	{
		Key: "VmRenamedEvent", Description: "VM renamed", Category: "info",
		FullFormat: "Renamed {{.Vm.Name}} from {{.OldName}} to {{.NewName}} in {{.Datacenter.Name}}",
	},
	{
		Key: "VmGuestStandbyEvent", Description: "Guest OS standby", Category: "info",
		FullFormat: "Guest OS standby for {{.Vm.Name}} on {{.Host.Name}} in {{.Datacenter.Name}}",
	},
	{
		Key: "VmMacConflictEvent", Description: "VM MAC conflict", Category: "error",
		FullFormat: "The MAC address ({{.Mac}}) of {{.Vm.Name}} conflicts with MAC assigned to {{.ConflictedVm.Name}}",
	},
}

// followVcsim has vcsim tell of its events: an update of a collector is all that leaves it.
func (s *Server) followVcsim() error {
	ctx := s.context(nil)
	em := ctx.Map.EventManager()
	if em == nil {
		return nil
	}
	em.Description.EventInfo = append(slices.Clip(em.Description.EventInfo), eventInfo...)
	body := em.CreateCollectorForEvents(ctx, &types.CreateCollectorForEvents{This: em.Self})
	if f := body.Fault(); f != nil {
		return faultError("follow vcsim's events", f)
	}
	return nil
}

// noteEvent adds an event of vcsim's own to the history: the first one of a collector's latest page.
func (s *Server) noteEvent(ctx *simulator.Context, changes []types.PropertyChange) {
	for _, c := range changes {
		page, ok := c.Val.(*types.ArrayOfEvent)
		if c.Name != "latestPage" || !ok || len(page.Event) == 0 {
			continue
		}
		e := deepCopy(page.Event[0])
		if x, ok := e.(*types.UserLoginSessionEvent); ok {
			x.UserAgent, _, _ = strings.Cut(x.UserAgent, callMark)
		}
		if x, ok := e.(*types.UserLogoutSessionEvent); ok {
			x.UserAgent, _, _ = strings.Cut(x.UserAgent, callMark)
			defer s.hub.broadcast() // who waits for updates in the session is to find out
		}
		s.post(ctx, e)
	}
}

// noteTask adds a task of vcsim's own to the history.
func (s *Server) noteTask(task *simulator.Task) {
	s.histMu.Lock()
	defer s.histMu.Unlock()
	if _, ours := s.owned[task.Self]; !ours {
		s.owned[task.Self] = false
		s.tasks = append(s.tasks, task)
	}
}
