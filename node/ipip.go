package node

import (
	"context"
	"fmt"

	"weft/node/config"
	"weft/tunnel"
	"weft/tunnel/ipip"
)

// ipipDriver returns the IPIP driver in the way that the configuration forces or the kernel has; nil,
// with the reason noted for status, when it has none. The other encapsulations do without it.
func (s *service) ipipDriver(ctx context.Context) tunnelDriver {
	way, err := ipip.Way(s.cfg.IPIPDriver), error(nil)
	if s.cfg.IPIPDriver == config.IPIPAuto {
		way, err = ipip.Probe(ctx)
	} else if err = ipip.Check(ctx, way); err != nil {
		err = fmt.Errorf("--ipip-driver %s does not work on this host, set it to auto or to another: %w", way, err)
	}
	if err != nil {
		s.missing = append(s.missing, fmt.Sprintf("IPIP is not available: %v", err))
		s.log.Warn("no IPIP", "err", err)
		return nil
	}
	s.ways[tunnel.IPIP] = string(way)
	return ipip.New(s.handle, way, s.log)
}
