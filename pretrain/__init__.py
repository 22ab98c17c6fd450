"""Config to layout to model to loop to checkpoint to MLflow."""

import warnings

from pretrain.lazy_compile import install

# megatron-core says on every import that Apex and Transformer Engine are absent (`pretrain doctor` says what
# that costs), and torch that megatron calls collectives by their old names.
warnings.filterwarnings("ignore", message=r".*Apex (is|are) not installed", module=r"megatron\.")
warnings.filterwarnings("ignore", message=r"`torch\.distributed\..*` is deprecated", category=FutureWarning)

install()
