package vspheretest_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/types"
)

func TestEventsTellTheOrderOfWork(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	begin := time.Now()
	golden := s.full("golden")
	snap := s.snapshot(golden, "golden-ready")
	con := s.linked(golden, snap, "con1")
	dis := s.linked(golden, snap, "dis1")
	s.must(con.PowerOn(s.ctx))
	s.must(con.PowerOff(s.ctx))
	s.must(con.Rename(s.ctx, "con1-old"))
	s.must(con.Destroy(s.ctx))

	m := event.NewManager(s.c.Client)
	list, err := m.QueryEvents(s.ctx, types.EventFilterSpec{
		EventTypeId: []string{"VmClonedEvent", "VmPoweredOnEvent", "VmPoweredOffEvent", "VmRenamedEvent", "VmRemovedEvent"},
		Entity:      &types.EventFilterSpecByEntity{Entity: s.folder.Reference(), Recursion: types.EventFilterSpecRecursionOptionChildren},
	})
	require.NoError(t, err)
	event.Sort(list)
	var got []string
	last := begin
	for _, e := range list {
		ev := e.GetEvent()
		got = append(got, eventName(e)+" "+ev.Vm.Name)
		assert.False(t, ev.CreatedTime.Before(last), "times go backwards at %s", got)
		last = ev.CreatedTime
		assert.NotEmpty(t, ev.FullFormattedMessage)
	}
	assert.Equal(t, []string{
		"VmClonedEvent golden", "VmClonedEvent con1", "VmClonedEvent dis1", "VmPoweredOnEvent con1", "VmPoweredOffEvent con1",
		"VmRenamedEvent con1-old", "VmRemovedEvent con1-old",
	}, got, "those of a VM that is gone included")

	all := s.events(dis.Reference())
	require.NotEmpty(t, all)
	_ = all
	on := list[3].GetEvent()
	chain, err := m.QueryEvents(s.ctx, types.EventFilterSpec{EventChainId: on.ChainId})
	require.NoError(t, err)
	var chained []string
	for _, e := range slices.Backward(chain) {
		chained = append(chained, eventName(e))
	}
	assert.Equal(t, []string{"TaskEvent", "VmStartingEvent", "VmPoweredOnEvent"}, chained)
}

func TestEventCollectorsGoBothWays(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	for i := range 7 {
		s.must(vm.Rename(s.ctx, fmt.Sprint("a", i)))
	}
	c, err := event.NewManager(s.c.Client).CreateCollectorForEvents(s.ctx, types.EventFilterSpec{
		EventTypeId: []string{"VmRenamedEvent"}, MaxCount: 3,
	})
	require.NoError(t, err)
	names := func(list []types.BaseEvent) (out []string) {
		for _, e := range list {
			out = append(out, e.(*types.VmRenamedEvent).NewName)
		}
		return out
	}
	read := func(list []types.BaseEvent, err error) []string {
		require.NoError(t, err)
		return names(list)
	}
	assert.Equal(t, []string{"a6", "a5", "a4"}, read(c.LatestPage(s.ctx)))
	assert.Equal(t, []string{"a0", "a1", "a2", "a3", "a4"}, read(c.ReadNextEvents(s.ctx, 5)))
	assert.Equal(t, []string{"a4", "a3"}, read(c.ReadPreviousEvents(s.ctx, 2)))
	require.NoError(t, c.Rewind(s.ctx))
	assert.Equal(t, []string{"a0"}, read(c.ReadNextEvents(s.ctx, 1)))
	require.NoError(t, c.Reset(s.ctx))
	assert.Empty(t, read(c.ReadNextEvents(s.ctx, 5)))
	s.must(vm.Rename(s.ctx, "new"))
	assert.Equal(t, []string{"new"}, read(c.ReadNextEvents(s.ctx, 5)))
	require.NoError(t, c.Destroy(s.ctx))
}

func TestTaskHistoryHasTimesAndOutcomes(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	s.must(vm.PowerOn(s.ctx))
	_, err := s.do(vm.PowerOn(s.ctx))
	require.Error(t, err)

	var wg sync.WaitGroup // reading while tasks run
	wg.Go(func() { s.must(vm.PowerOff(s.ctx)) })
	c, err := task.NewManager(s.c.Client).CreateCollectorForTasks(s.ctx, types.TaskFilterSpec{
		Entity: &types.TaskFilterSpecByEntity{Entity: vm.Reference(), Recursion: types.TaskFilterSpecRecursionOptionSelf},
	})
	require.NoError(t, err)
	wg.Wait()
	list, err := c.ReadNextTasks(s.ctx, 10)
	require.NoError(t, err)
	var got []string
	for _, i := range list {
		got = append(got, fmt.Sprint(i.Name, " ", i.State))
		require.NotNil(t, i.StartTime)
		require.NotNil(t, i.CompleteTime)
		assert.False(t, i.StartTime.Before(i.QueueTime))
		assert.False(t, i.CompleteTime.Before(*i.StartTime))
		assert.NotZero(t, i.EventChainId)
		assert.Equal(t, "a", i.EntityName)
	}
	assert.Equal(t, []string{"PowerOnVM_Task success", "PowerOnVM_Task error", "PowerOffVM_Task success"}, got)
}
