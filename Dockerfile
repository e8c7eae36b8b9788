# docker build --build-arg HARDWARE=cuda -t quantization-pipeline .      (docs/operating.md; cpu is the default)
# With compilers: torch and vLLM compile C++ and Triton kernels when they run.
FROM python:3.11-bookworm
ARG HARDWARE=cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/*
COPY . /opt/pipeline
RUN make -C /opt/pipeline install HARDWARE=${HARDWARE} \
    && rm -rf /root/.cache
# Programs that a model writes are not run as root. Outputs and caches are mounted, and belong to whom --user names, who
# has no home here.
RUN useradd --create-home user && mkdir /study && chmod a+rwx /study /home/user
ENV HOME=/home/user
USER user
WORKDIR /study
ENTRYPOINT ["/opt/pipeline/.venv/bin/quantization-pipeline"]
