# Stands in for nats:2.12-alpine: the same paths, entry point and default configuration, busybox for sh and wget.
ARG BASE
FROM ${BASE}
RUN apt-get update -q && apt-get install -q -y --no-install-recommends busybox \
    && rm -rf /var/lib/apt/lists/* && ln -s /bin/busybox /usr/local/bin/wget
COPY nats-server /usr/local/bin/nats-server
COPY nats-server.conf /etc/nats/nats-server.conf
COPY nats-entrypoint /usr/local/bin/docker-entrypoint.sh
EXPOSE 4222 8222 6222
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["nats-server", "--config", "/etc/nats/nats-server.conf"]
