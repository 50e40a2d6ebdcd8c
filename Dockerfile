# One image for everything of ours: the launcher, the nodes of the Ray cluster, and MLflow's server.
# PIP_ARGUMENTS goes to pip, for an index of CPU builds say; torch brings gigabytes of CUDA otherwise.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

RUN useradd --create-home --uid 1000 tuner && install -d -o tuner -g tuner /studies /artifacts
WORKDIR /tuner
ENV PATH=/opt/tuner/bin:$PATH PIP_CONSTRAINT=/tuner/constraints.txt PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# Whoever edits Tuner's own code installs its dependencies once.
COPY constraints.txt pyproject.toml README.md ./
ARG PIP_ARGUMENTS=
RUN python3 -m venv /opt/tuner \
 && pip install $PIP_ARGUMENTS "$(grep '^torch==' constraints.txt)" \
 && python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print("\n".join(p["dependencies"] + p["optional-dependencies"]["cluster"]))' > /tmp/needed.txt \
 && pip install $PIP_ARGUMENTS -r /tmp/needed.txt
COPY tuner tuner
COPY models models
COPY search_spaces search_spaces
COPY docs/study.schema.json docs/study.schema.json
RUN pip install $PIP_ARGUMENTS --no-deps .

COPY --chown=tuner examples examples
USER tuner
