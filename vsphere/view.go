package vsphere

import (
	"context"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// view is what the watcher has on the server: a property collector, a list view of the objects
// watched, and a filter that joins the two. It dies with its login.
type view struct {
	conn            *conn
	collector, list types.ManagedObjectReference
	version         string // of the last answer
}

func newView(ctx context.Context, c *conn) (*view, error) {
	v := &view{conn: c}
	collector, err := methods.CreatePropertyCollector(ctx, c, &types.CreatePropertyCollector{This: c.ServiceContent.PropertyCollector})
	if err != nil {
		return nil, err
	}
	v.collector = collector.Returnval
	list, err := methods.CreateListView(ctx, c, &types.CreateListView{This: *c.ServiceContent.ViewManager})
	if err != nil {
		return nil, err
	}
	v.list = list.Returnval
	_, err = methods.CreateFilter(ctx, c, &types.CreateFilter{
		This: v.collector,
		Spec: types.PropertyFilterSpec{
			PropSet: watched,
			ObjectSet: []types.ObjectSpec{{
				Obj:       v.list,
				Skip:      types.NewBool(true),
				SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: "ListView", Path: "view"}},
			}},
		},
	})
	return v, err
}

// poll returns what changed since the last poll, or nil if nothing did for the given number of
// seconds.
func (v *view) poll(ctx context.Context, seconds int32) (*types.UpdateSet, error) {
	var all *types.UpdateSet
	for {
		res, err := methods.WaitForUpdatesEx(ctx, v.conn, &types.WaitForUpdatesEx{
			This:    v.collector,
			Version: v.version,
			Options: &types.WaitOptions{MaxWaitSeconds: types.NewInt32(seconds)},
		})
		if err != nil {
			return nil, err
		}
		set := res.Returnval
		if set == nil {
			return all, nil
		}
		v.version = set.Version
		if all == nil {
			all = set
		} else {
			all.FilterSet = append(all.FilterSet, set.FilterSet...)
		}
		if set.Truncated == nil || !*set.Truncated {
			return all, nil
		}
		seconds = 0 // the rest is there already
	}
}

// destroy ends a poll that is out. Failing is no matter: logging out does the same.
func (v *view) destroy(ctx context.Context) {
	_, _ = methods.DestroyPropertyCollector(ctx, v.conn, &types.DestroyPropertyCollector{This: v.collector})
}
