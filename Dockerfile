# The `allotment` binary, in a small image without root.
#
# `docker build .` compiles it in an image of Rust. `scripts/image` gives the binary that cargo has made on this machine
# instead of the sources; then the image of Rust is not needed.
ARG BUILD_IMAGE=rust:1-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY . .
RUN [ -x allotment ] || { cargo build --release --locked && mv target/release/allotment . ; }

FROM ${BASE_IMAGE}
COPY --from=build /build/allotment /usr/local/bin/allotment
# nobody, by number: an orchestrator can see that it is not root
USER 65534:65534
ENTRYPOINT ["/usr/local/bin/allotment"]
CMD ["demo"]
