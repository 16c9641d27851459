package vsphere

import (
	"bytes"
	"context"
	"image/png"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestTheConsoleOfAVMThatIsOnIsSeen(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	var p pool.Screenshotter = l.p
	_, err := p.Screenshot(ctx, id)
	require.ErrorContains(t, err, `golden`, "it is off")
	require.NoError(t, l.p.PowerOn(ctx, id))
	picture, err := p.Screenshot(ctx, id)
	require.NoError(t, err)
	screen, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	assert.Positive(t, screen.Bounds().Dx())

	anybody := http.Client{Transport: &http.Transport{TLSClientConfig: l.p.s.end.tls(), DisableKeepAlives: true}}
	res, err := anybody.Get("https://" + l.URL.Host + "/screen?id=" + id)
	require.NoError(t, err)
	res.Body.Close()
	assert.Equal(t, http.StatusUnauthorized, res.StatusCode, "not for everybody")
}

func TestAScreenshotEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	require.NoError(t, l.p.PowerOn(ctx, id))
	l.Inject(vspheretest.Fault{Method: "GET /screen", Effect: vspheretest.Stall(-1)})
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err := l.p.Screenshot(short, id)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
