package pool

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// twoGoldens is twoRoles with a golden of its own for dis.
func twoGoldens() Spec {
	spec := twoRoles(2)
	spec.Roles[1].Golden = &Golden{
		Template: "debian12", VM: VM{Name: "golden-debian"}, Steps: []Step{{Name: "update", Version: "1", Do: nothing}},
	}
	return spec
}

func TestPlanOfRolesWithGoldensOfTheirOwn(t *testing.T) {
	t.Parallel()
	both := map[string]string{"rhel9": "v1", "debian12": "v1"}
	w, err := planOf(t, twoGoldens(), &Inventory{Templates: both})
	require.NoError(t, err)
	require.Len(t, w.goldens, 2)
	assert.Equal(t, "golden", w.roles[0][0].golden.VM)
	assert.Equal(t, "golden-debian", w.roles[1][1].golden.VM)
	assert.Equal(t, "golden-ready", w.roles[1][1].golden.recipe.Snapshot)

	_, err = planOf(t, twoGoldens(), &Inventory{Templates: map[string]string{"rhel9": "v1"}})
	assert.ErrorContains(t, err, `template "debian12" of Spec.Roles[1] ("dis").Golden does not exist`)
	_, err = planOf(t, twoGoldens(), &Inventory{})
	assert.ErrorContains(t, err, `template "debian12" of Spec.Roles[1] ("dis").Golden does not exist`)
	assert.ErrorContains(t, err, `template "rhel9" of Spec.Golden does not exist`, "all that are missing")

	spec := twoGoldens()
	inv := ready(t, spec)
	spec.Roles[1].Golden.Steps[0].Version = "2"
	w, err = planOf(t, spec, inv)
	require.NoError(t, err)
	plan := lines(w)
	assert.Contains(t, plan["golden"], "reuse")
	assert.Contains(t, plan["con1"], "reuse")
	assert.Contains(t, plan["golden-debian-g2"], `rebuild: step "update" changed`)
	assert.Contains(t, plan["dis2"], "rebuild: golden-debian-g2 is rebuilt")
}

func TestFaultsOfGoldensOfRoles(t *testing.T) {
	t.Parallel()
	require.NoError(t, twoGoldens().validate())
	shared := twoGoldens()
	shared.Roles[0].Golden = shared.Roles[1].Golden
	shared.Roles[0].Golden.VM.NICs = []NIC{{MAC: "00:50:56:00:00:99"}}
	require.NoError(t, shared.validate(), "roles may share one")
	for want, fault := range map[string]func(s *Spec){
		`Spec.Roles[1] ("dis").Golden.Template: is required`:                       func(s *Spec) { s.Roles[1].Golden.Template = "" },
		`Spec.Roles[1] ("dis").Golden.VM: Name "golden" is that of Spec.Golden.VM`: func(s *Spec) { s.Roles[1].Golden.VM.Name = "golden" },
		`Spec.Roles[1] ("dis").Golden: Steps[0] ("update"): Do is required`:        func(s *Spec) { s.Roles[1].Golden.Steps[0].Do = nil },
		`Name "golden-debian" is that of Spec.Roles[0] ("con").Golden.VM`:          func(s *Spec) { g := *s.Roles[1].Golden; s.Roles[0].Golden = &g },
		`MAC "00:50:56:00:01:01" is that of Spec.Roles[0] ("con"): VM(1)`:          func(s *Spec) { s.Roles[1].Golden.VM.NICs = []NIC{{MAC: "00:50:56:00:01:01"}} },
	} {
		spec := twoGoldens()
		fault(&spec)
		assert.ErrorContains(t, spec.validate(), want)
	}
}
