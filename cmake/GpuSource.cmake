# IFA_GPU_SOURCE: a digest of what the GPU kernels are made of (with CUDA or without), so that a record can tell whether it is theirs. Programs that
# only test and measure are no part of it.
file(GLOB_RECURSE gpu_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/gpu/*.cu ${CMAKE_SOURCE_DIR}/gpu/*.cuh ${CMAKE_SOURCE_DIR}/gpu/*.h)
list(FILTER gpu_sources EXCLUDE REGEX "/gpu/(bench|tests|mutants|steps)/")
list(APPEND gpu_sources ${CMAKE_SOURCE_DIR}/common/contract.h ${CMAKE_SOURCE_DIR}/common/exact.h ${CMAKE_SOURCE_DIR}/common/half.h ${CMAKE_SOURCE_DIR}/common/operand.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${gpu_sources})
set(gpu_digests "")
foreach(source IN LISTS gpu_sources)
  file(SHA256 ${source} one)
  string(APPEND gpu_digests ${one})
endforeach()
string(SHA256 gpu_digest "${gpu_digests}")
string(SUBSTRING ${gpu_digest} 0 16 IFA_GPU_SOURCE)
