#!/bin/sh
# The product under test. This stands in for it: see Topology.Product.
set -eu

install -d -m 755 "$PRODUCT_DIR"
[ -e "$PRODUCT_DIR/VERSION" ] || printf 'placeholder\n' >"$PRODUCT_DIR/VERSION"
