"""What the tests leave out of XLA's work, and how one of them gets it back.

conftest and its fixture `quick` trade the speed of programs for that of compiling them. Where rounding,
memory or collectives of the compiled program are what is tested, jit takes these `compiler_options`.
"""

AS_USERS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_backend_extra_options": "",
}
