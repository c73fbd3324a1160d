package speaker

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// What would be lost is not known of a speaker that is not configured, or was stopped; of one that runs it is.
func TestWithout(t *testing.T) {
	sp := newSpeaker(Process{}, slog.New(slog.DiscardHandler), &slog.LevelVar{})
	ask := func() (*Lost, error) { return sp.without(&Without{Peers: []netip.Addr{{}}}) }
	if lost, err := ask(); err == nil {
		t.Errorf("not configured: %+v", lost)
	}
	g := server.NewBgpServer(server.LoggerOption(sp.log, sp.level))
	go g.Serve()
	t.Cleanup(g.Stop)
	if err := g.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{Asn: 64512, RouterId: "10.0.0.1", ListenPort: -1}}); err != nil {
		t.Fatal(err)
	}
	sp.bgp = g
	for _, s := range []string{"10.9.0.0/16", "10.8.0.0/16", "10.10.0.0/16"} {
		n, err := bgp.NewIPAddrPrefix(netip.MustParsePrefix(s))
		if err != nil {
			t.Fatal(err)
		}
		hop, err := bgp.NewPathAttributeNextHop(netip.MustParseAddr("10.0.0.2"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{{Nlri: n, Family: bgp.RF_IPv4_UC, Attrs: []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0), hop}}}}); err != nil {
			t.Fatal(err)
		}
	}
	lost, err := ask()
	if err != nil || lost.Count != 3 || lost.First != netip.MustParsePrefix("10.8.0.0/16") {
		t.Errorf("without all: %+v, %v", lost, err)
	}
	if err := g.StopBgp(context.Background(), &api.StopBgpRequest{}); err != nil {
		t.Fatal(err)
	}
	if lost, err := ask(); err == nil {
		t.Errorf("stopped: %+v", lost)
	}
}
