# The library as others use it: libifa.so and libifa.a from the same objects, the headers, a CMake package, a pkg-config file, validate.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# One compilation for both: position independent, and nothing but what include/ declares (it switches visibility on) is exported.
set_target_properties(ifa PROPERTIES POSITION_INDEPENDENT_CODE ON C_VISIBILITY_PRESET hidden EXPORT_NAME ifa_static)
target_include_directories(ifa INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set(installed_targets ifa)

# What libifa.a needs beside libm and threads, in words for any linker: OpenMP's and CUDA's runtimes are not found by CMake again.
set(IFA_STATIC_LIBRARIES "")
if(IFA_HAVE_OPENMP)
  if(CMAKE_C_COMPILER_ID STREQUAL GNU)
    list(APPEND IFA_STATIC_LIBRARIES -lgomp)
  else()
    list(APPEND IFA_STATIC_LIBRARIES ${OpenMP_C_LIBRARIES})
  endif()
endif()
if(IFA_HAVE_CUDA)
  list(APPEND IFA_STATIC_LIBRARIES ${CUDA_cudart_static_LIBRARY} -ldl -lrt -lstdc++)
endif()
target_link_libraries(ifa INTERFACE "$<INSTALL_INTERFACE:${IFA_STATIC_LIBRARIES}>")

# Sanitized objects do not make a useful library.
if(IFA_SHARED AND NOT IFA_SANITIZE AND NOT IFA_FUZZ)
  add_library(ifa_shared SHARED $<TARGET_OBJECTS:ifa> $<TARGET_OBJECTS:ifa_cpu> ${IFA_GPU_OBJECTS})
  set_target_properties(ifa_shared PROPERTIES OUTPUT_NAME ifa EXPORT_NAME ifa VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE C)
  target_include_directories(ifa_shared INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(ifa_shared PRIVATE m Threads::Threads)
  if(IFA_HAVE_OPENMP)
    target_link_libraries(ifa_shared PRIVATE OpenMP::OpenMP_C)
  endif()
  if(IFA_HAVE_CUDA)
    target_link_libraries(ifa_shared PRIVATE CUDA::cudart_static)
  endif()
  target_link_options(ifa_shared PRIVATE -Wl,-z,defs -Wl,--exclude-libs,ALL) # a static runtime's symbols stay inside
  list(APPEND installed_targets ifa_shared)
endif()

install(TARGETS ${installed_targets} EXPORT ifa)
install(FILES include/ifa.h include/ifa_cache.h include/ifa_cpu.h $<$<BOOL:${IFA_HAVE_CUDA}>:${CMAKE_SOURCE_DIR}/include/ifa_cuda.h> DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# find_package(ifa): ifa::ifa (shared) and ifa::ifa_static.
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/ifa)
configure_package_config_file(cmake/ifaConfig.cmake.in ${CMAKE_BINARY_DIR}/ifaConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/ifaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT ifa NAMESPACE ifa:: FILE ifaTargets.cmake DESTINATION ${package_folder})
install(FILES ${CMAKE_BINARY_DIR}/ifaConfig.cmake ${CMAKE_BINARY_DIR}/ifaConfigVersion.cmake DESTINATION ${package_folder})

# pkg-config: the prefix is found from the file's own place, so that an installed tree can be moved.
file(RELATIVE_PATH IFA_PC_TO_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" IFA_PC_TO_PREFIX ${IFA_PC_TO_PREFIX})
list(JOIN IFA_STATIC_LIBRARIES " " IFA_PC_STATIC_LIBRARIES)
# A program must find the library at run time too, wherever it was installed, as one built by CMake does.
if(CMAKE_INSTALL_FULL_LIBDIR IN_LIST CMAKE_C_IMPLICIT_LINK_DIRECTORIES)
  set(IFA_PC_RUN_PATH "")
else()
  set(IFA_PC_RUN_PATH "-Wl,-rpath,\${libdir} ")
endif()
configure_file(cmake/ifa.pc.in ${CMAKE_BINARY_DIR}/ifa.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/ifa.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# Manual pages, and the real tensors that validate's suite `real` reads.
if(IFA_HAVE_XXHASH AND IFA_HAVE_JANSSON)
  install(TARGETS validate)
  install(FILES include/ifa_plugin.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}) # a kernel plugged into validate needs it and ifa.h
  install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DATADIR}/ifa PATTERN __pycache__ EXCLUDE PATTERN *.md EXCLUDE)
  if(NOT CMAKE_CROSSCOMPILING)
    install(FILES ${CMAKE_BINARY_DIR}/validate/validate.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  endif()
  install(FILES tools/completion/validate.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME validate)
  install(FILES tools/completion/validate.zsh DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions RENAME _validate)
  install(FILES tools/completion/validate.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
  install(DIRECTORY data/real DESTINATION ${CMAKE_INSTALL_DATADIR}/ifa FILES_MATCHING PATTERN *.safetensors)
endif()
include(Documents)
