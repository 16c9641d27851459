package vsphere

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/vmware/govmomi/vim25/soap"
)

// maxScreen limits the size of a picture: 8K at 32 bits, uncompressed, is less.
const maxScreen = 128 << 20

// Screenshot implements pool.Screenshotter. It reads what vCenter serves at /screen, as "govc
// vm.console -capture" does, and leaves nothing on the datastore, as CreateScreenshot_Task would.
// The VM must be on.
func (p *Provider) Screenshot(ctx context.Context, id string) (picture []byte, err error) {
	err = p.s.read(ctx, func(c *conn) error {
		u := *p.s.end.url
		u.User, u.Path, u.RawQuery = nil, "/screen", url.Values{"id": {id}}.Encode()
		body, _, err := c.Download(ctx, &u, &soap.Download{Method: http.MethodGet})
		if err != nil {
			return err
		}
		defer body.Close()
		picture, err = io.ReadAll(io.LimitReader(body, maxScreen))
		return err
	})
	if err == nil && !bytes.HasPrefix(picture, []byte("\x89PNG\r\n\x1a\n")) {
		picture, err = nil, errors.New("vCenter's answer is no PNG picture")
	}
	if err != nil {
		err = fmt.Errorf("is the VM on, and may this user see its console? %w", err)
	}
	return picture, p.errorf(err, "screenshot of %s", p.label(id))
}
