# Stands in for python:3.13-slim: `python` with pip and venv, no compiler. Its version is Debian's.
ARG BASE
FROM ${BASE}
RUN apt-get update -q && apt-get install -q -y --no-install-recommends python3 python3-venv python3-pip \
    && rm -rf /var/lib/apt/lists/* && ln -s /usr/bin/python3 /usr/local/bin/python \
    && ln -s /usr/bin/python3 /usr/local/bin/python3
ENV LANG=C.UTF-8
CMD ["python3"]
