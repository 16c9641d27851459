package realguests

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnswerTime(t *testing.T) {
	t.Parallel()
	q := make([]byte, 48)
	q[0] = 4<<3 | 3 // version 4, client
	copy(q[40:], "transmit")
	now := time.Date(2026, 1, 2, 3, 4, 5, 500e6, time.UTC)
	r := answerTime(q, now)
	require.Len(t, r, 48)
	assert.Equal(t, byte(4<<3|4), r[0])
	assert.Equal(t, "transmit", string(r[24:32]))
	sent := binary.BigEndian.Uint64(r[40:])
	assert.Equal(
		t,
		now,
		time.Unix(int64(sent>>32)-2208988800, int64(sent&0xffffffff)*1e9>>32).UTC(),
	)

	q[0] = 4<<3 | 4
	assert.Nil(t, answerTime(q, now), "a server's packet is not answered")
	assert.Nil(t, answerTime(q[:20], now), "nor is a short one")
}
