# Stands in for postgres:15-alpine: Debian's PostgreSQL behind the official image's interface.
ARG BASE
FROM ${BASE}
ARG MAJOR
RUN groupadd --gid 70 postgres \
    && useradd --uid 70 --gid 70 --home-dir /var/lib/postgresql --shell /bin/sh postgres \
    && mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf \
    && apt-get update -q && apt-get install -q -y --no-install-recommends postgresql-${MAJOR} \
    && rm -rf /var/lib/apt/lists/*
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
ENV PG_MAJOR=${MAJOR} LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data PATH=/usr/lib/postgresql/${MAJOR}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN mkdir -p /docker-entrypoint-initdb.d "$PGDATA" /var/run/postgresql \
    && chown -R postgres:postgres /var/lib/postgresql /var/run/postgresql && chmod 3777 /var/run/postgresql \
    && chmod 0700 "$PGDATA"
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
