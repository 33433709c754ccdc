# The service of an exported model, as a normal user and without torch.
#
#     docker build --tag flatnext-serve .
#     docker run --rm --publish 127.0.0.1:8000:8000 --volume "$PWD/model.onnx:/models/model.onnx:ro" flatnext-serve

FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# The package itself without its dependencies, of which torch is one; then what the service needs, as pyproject.toml has it.
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps . \
    && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
       core = [name for name in project['dependencies'] if name.startswith(('numpy', 'pillow'))]; \
       print(*core, *project['optional-dependencies']['serve'], sep='\n')" > /requirements.txt \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt --requirement /requirements.txt

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin flatnext
COPY --from=build /venv /venv
ENV PATH="/venv/bin:$PATH" PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
USER 10001
WORKDIR /models
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["flatnext", "serve", "--host", "0.0.0.0"]
CMD ["model.onnx"]
