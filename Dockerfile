# The gateway in a small image: `docker build -t buho .`
FROM rust:1.91-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock LICENSE schema.cql ./
COPY src src
COPY actors actors
COPY loadtest loadtest
RUN cargo build --release --locked --package buho --bin buho

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/buho buho \
    && install --directory --owner=buho --group=buho --mode=0700 /var/lib/buho/data
COPY --from=build /build/target/release/buho /usr/local/bin/buho
COPY --from=build /build/LICENSE /usr/share/doc/buho/LICENSE
USER buho
WORKDIR /var/lib/buho
ENV BUHO_SERVER__LISTEN=0.0.0.0:8080 \
    BUHO_STORE__PATH=/var/lib/buho/data
VOLUME /var/lib/buho/data
EXPOSE 8080
# The gateway stops in good order at SIGTERM, within 15 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["buho"]
CMD ["serve"]
