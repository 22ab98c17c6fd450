"""Every benchmark for a GPU, one after another; each writes its results.

python benchmarks/gpu.py              # GPTs, then GANs
python benchmarks/gpu.py gan          # some
python benchmarks/gpu.py --quick      # very small ones, to see that they work; on a CPU too
"""

from run import main

NAMES = ("gpt", "gan")

if __name__ == "__main__":
    main(NAMES, __doc__, prefix="gpu_")
