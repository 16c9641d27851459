package vspheretest

import (
	"cmp"
	"context"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A job is an operation that runs as a task.
type job struct {
	method string // "CloneVM_Task"
	id     string // "VirtualMachine.clone", as in TaskManager's descriptions
	entity types.ManagedObjectReference
	own    []*vm // VMs that the operation has to itself
	read   []*vm // VMs that it reads, together with others

	// cost is what the operation takes of its host's units while it runs; see Limits.
	host *simulator.HostSystem
	cost int

	// cancelable operations end early when the client cancels the task.
	cancelable bool
	work       func(op *op) (result types.AnyType, fault types.BaseMethodFault)
}

// An op is a job that runs.
type op struct {
	s       *Server
	ctx     *simulator.Context // to act on the inventory with
	task    *simulator.Task
	life    context.Context       // ends with the Server, or when the task is cancelled
	fail    types.BaseMethodFault // injected: instead of an effect
	slow    float64
	asks    string // a question that comes before the effect
	choices []string
}

// take waits for d, the time that the operation takes, before it has its effect. The fault tells
// that it is not to have it.
func (o *op) take(d time.Duration) types.BaseMethodFault {
	if o.slow != 0 {
		d = time.Duration(float64(d) * o.slow)
	}
	if sleep(o.life, o.s.paced(d)) != nil {
		return &types.RequestCanceled{}
	}
	if text := o.asks; text != "" {
		o.asks = "" // once, in whatever step of the operation
		if f := o.ask(text, o.choices); f != nil {
			return f
		}
	}
	return o.fail
}

// submit starts the job and returns its task, or refuses it.
func (s *Server) submit(call *simulator.Context, j job) (types.ManagedObjectReference, *soap.Fault) {
	ctx := s.context(call)
	task := simulator.CreateTask(j.entity, j.method, nil)
	task.Self = types.ManagedObjectReference{Type: "Task", Value: s.newValue("task")}
	info := &task.Info
	info.Key, info.Task = task.Self.Value, task.Self
	info.Name, info.DescriptionId = j.method, j.id
	info.EntityName = s.nameOf(j.entity)
	info.Cancelable = j.cancelable
	info.Reason = &types.TaskReasonUser{UserName: cmp.Or(call.Session.UserName, adminUser)}

	busy, late := s.occupy(task.Self, j)
	if busy != nil && !late {
		return types.ManagedObjectReference{}, soapFault(busy)
	}
	for _, v := range append(j.own, j.read...) {
		info.Locked = append(info.Locked, v.ref)
	}
	life, cancel := context.WithCancel(s.life)
	if j.cancelable {
		s.setCancel(task.Self, cancel)
	}
	s.histMu.Lock()
	s.owned[task.Self] = true
	s.tasks = append(s.tasks, task)
	s.histMu.Unlock()
	// TaskManager adds the task to its entity's recentTask, and expects the entity to be locked.
	ctx.WithLock(j.entity, func() { ctx.Map.Put(task) })
	chain := s.postTask(ctx, deepCopy(*info))
	change(ctx, task, func() { task.Info.EventChainId = chain })

	o := &op{s: s, ctx: ctx, task: task, life: life}
	var afterwards types.BaseMethodFault
	if c := s.call(call); c != nil {
		for _, e := range c.meets {
			switch {
			case e.fail != nil && e.late:
				afterwards = e.fail
			case e.fail != nil:
				o.fail = e.fail
			case e.slow != 0:
				o.slow = e.slow
			case e.asks != "":
				o.asks, o.choices = e.asks, e.choices
			}
		}
	}
	s.goWork(func() {
		defer cancel()
		defer s.setCancel(task.Self, nil)
		if busy != nil {
			o.update(func(i *types.TaskInfo) { i.State, i.StartTime = types.TaskInfoStateRunning, now() })
			o.finish(nil, busy)
			return
		}
		var result types.AnyType
		fault := s.admit(life, j) // the task is queued meanwhile
		if fault == nil {
			o.update(func(i *types.TaskInfo) { i.State, i.StartTime = types.TaskInfoStateRunning, now() })
			if fault = s.unreached(ctx, j); fault == nil {
				result, fault = j.work(o)
			}
			s.retire(j)
		}
		s.vacate(task.Self, j)
		if fault == nil {
			fault = afterwards
		}
		o.finish(result, fault)
	})
	return task.Self, nil
}

func (o *op) finish(result types.AnyType, fault types.BaseMethodFault) {
	o.update(func(i *types.TaskInfo) {
		i.CompleteTime = now()
		if fault != nil {
			i.State = types.TaskInfoStateError
			i.Error = &types.LocalizedMethodFault{Fault: fault, LocalizedMessage: faultMessage(fault)}
			return
		}
		i.State, i.Progress, i.Result = types.TaskInfoStateSuccess, 100, result
	})
}

func (o *op) update(f func(*types.TaskInfo)) {
	change(o.ctx, o.task, func() { f(&o.task.Info) })
}

func now() *time.Time {
	t := time.Now()
	return &t
}

// occupy marks the job's VMs as busy. If one already is, it returns the fault, and whether the
// client is to find it in the task: vCenter is not known to do always the one or the other, so
// the Server takes turns.
func (s *Server) occupy(task types.ManagedObjectReference, j job) (busy types.BaseMethodFault, late bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var by *types.ManagedObjectReference
	for _, v := range j.own {
		by = v.owner
		for ref := range v.sharers {
			by = &ref
		}
		if by != nil {
			break
		}
	}
	for _, v := range j.read {
		if by == nil {
			by = v.owner
		}
	}
	if by != nil {
		s.nbusy++
		return &types.TaskInProgress{Task: *by}, s.nbusy%2 == 0
	}
	for _, v := range j.own {
		v.owner = &task
	}
	for _, v := range j.read {
		v.sharers[task] = true
	}
	return nil, false
}

func (s *Server) vacate(task types.ManagedObjectReference, j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range j.own {
		v.owner = nil
	}
	for _, v := range j.read {
		delete(v.sharers, task)
	}
	close(s.freed)
	s.freed = make(chan struct{})
}

// hold waits until the VM is not busy and takes it for something that is no task, such as the
// guest halting by itself. It returns false if the Server closes first.
func (s *Server) hold(v *vm) (release func(), ok bool) {
	none := types.ManagedObjectReference{Type: "Task", Value: "none"}
	for {
		s.mu.Lock()
		free := v.owner == nil && len(v.sharers) == 0
		freed := s.freed
		if free {
			v.owner = &none
			s.mu.Unlock()
			return func() { s.vacate(none, job{own: []*vm{v}}) }, true
		}
		s.mu.Unlock()
		select {
		case <-freed:
		case <-s.life.Done():
			return nil, false
		}
	}
}

func (s *Server) setCancel(task types.ManagedObjectReference, cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel == nil {
		delete(s.cancels, task)
		return
	}
	s.cancels[task] = cancel
}
