# The gateway in a small image: `docker build -t buho .`; with the load test beside it: `docker build --target load .`
FROM rust:1.91-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock LICENSE schema.cql ./
COPY src src
COPY benches benches
COPY actors actors
COPY loadtest loadtest
RUN cargo build --release --locked --bin buho --bin buho-loadtest

FROM debian:bookworm-slim AS base
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/buho buho \
    && install --directory --owner=buho --group=buho --mode=0700 /var/lib/buho/data /var/lib/buho/backups
COPY --from=build /build/target/release/buho /usr/local/bin/buho
COPY --from=build /build/LICENSE /usr/share/doc/buho/LICENSE
USER buho
WORKDIR /var/lib/buho

FROM base AS load
COPY --from=build /build/target/release/buho-loadtest /usr/local/bin/buho-loadtest
ENTRYPOINT ["buho-loadtest"]
CMD ["latency", "--without-yardstick", "--start", "/usr/local/bin/buho"]

FROM base AS gateway
ENV BUHO_SERVER__LISTEN=0.0.0.0:8080 \
    BUHO_STORE__PATH=/var/lib/buho/data
VOLUME /var/lib/buho/data
EXPOSE 8080
# The gateway stops in good order at SIGTERM, within 15 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["buho"]
CMD ["serve"]
