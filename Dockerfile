# The `allotment` binary and that of the simulated image API, in a small image without root.
#
# `docker build .` compiles them in an image of Rust. `scripts/image` gives the binaries that cargo has made on this machine
# instead of the sources; then the image of Rust is not needed.
ARG BUILD_IMAGE=rust:1-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY . .
RUN [ -x allotment ] || { cargo build --release --locked -p allotment-server -p allotment-upstream && \
    mv target/release/allotment target/release/allotment-upstream . ; }

FROM ${BASE_IMAGE}
COPY --from=build /build/allotment /build/allotment-upstream /usr/local/bin/
# nobody, by number: an orchestrator can see that it is not root
USER 65534:65534
ENTRYPOINT ["/usr/local/bin/allotment"]
CMD ["demo"]
