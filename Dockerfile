# For CI: all three formats, on PyTorch's CPU build.
#   docker build --tag edgeqkv --build-arg VERSION=0.1.0 .
#   docker run --rm --volume "$PWD:/work" edgeqkv export model.pt --out bundle
FROM python:3.12-slim

# The version is read from tags, and git is not in here.
ARG VERSION=0.1.0.dev0
COPY pyproject.toml README.md LICENSE /source/
COPY edgeqkv /source/edgeqkv
COPY export_recipes /source/export_recipes
RUN SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION} \
    pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu '/source[all]' \
    && rm -rf /source

RUN useradd --create-home edgeqkv
USER edgeqkv
WORKDIR /work
ENTRYPOINT ["edgeqkv"]
CMD ["doctor"]
