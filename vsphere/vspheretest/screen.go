package vspheretest

import (
	"image"
	"image/color"
	"image/png"
	"net/http"

	"github.com/vmware/govmomi/vim25/types"
)

// screenPath is where vCenter and ESXi serve a picture of a VM's console, as PNG, to those who are
// logged in: /screen?id=vm-12. govc vm.console -capture reads it.
const screenPath = "/screen"

// screen serves the console of a VM that is on: a black screen with a cursor, since guests have no
// display. How a real vCenter refuses one that is off is unconfirmed.
func (s *Server) screen(w http.ResponseWriter, r *http.Request) {
	v := s.vm(types.ManagedObjectReference{Type: "VirtualMachine", Value: r.URL.Query().Get("id")})
	on := false
	if v != nil {
		s.mu.Lock()
		on = v.guest != nil
		s.mu.Unlock()
	}
	if !on {
		http.Error(w, "404 Not Found", http.StatusNotFound)
		return
	}
	picture := image.NewPaletted(image.Rect(0, 0, 720, 400), color.Palette{color.Black, color.White})
	for x := range 9 {
		for y := 14; y < 16; y++ {
			picture.SetColorIndex(x, y, 1)
		}
	}
	w.Header().Set("Content-Type", "image/png")
	_ = png.Encode(w, picture) // a client that is gone has no use for it
}
