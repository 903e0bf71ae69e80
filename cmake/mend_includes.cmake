# Mends include folders that would stop CMake, at the end of the configure step. Two of them, both from Python venvs:
#
# 1. The ROS 2 wheels on PyPI export targets that name the CPython and NumPy include folders of the machine that built
#    the wheels, and CMake refuses a target with a missing include folder: these are dropped. Nothing is lost, since a
#    folder that does not exist holds no headers; and the venv stays as pip made it, so a reinstall needs no new mend.
# 2. A venv inside this source tree puts NumPy's headers below it, and CMake refuses to export a target with an include
#    folder of the source tree: there it is kept for the build and left out of the export.
#
# Where ROS 2 comes from apt and the venv, if any, lies elsewhere, nothing is changed.
# This package includes the file by itself. For other packages: colcon build --cmake-args
# -DCMAKE_PROJECT_INCLUDE=<this file>. Being included twice is harmless.

include_guard(DIRECTORY)

function(_instformer_mend_includes)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  get_property(built DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS imported built)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(mended "")
    foreach(folder IN LISTS folders)
      string(FIND "${folder}" "${CMAKE_CURRENT_SOURCE_DIR}/" below_source)
      string(FIND "${folder}" "${CMAKE_CURRENT_BINARY_DIR}/" below_build)
      if(target IN_LIST built AND below_source EQUAL 0 AND NOT below_build EQUAL 0)
        list(APPEND mended "$<BUILD_INTERFACE:${folder}>")
      elseif(NOT IS_ABSOLUTE "${folder}" OR IS_DIRECTORY "${folder}" OR NOT target IN_LIST imported)
        list(APPEND mended "${folder}")  # a generator expression is not an absolute path, so it is kept as well
      endif()
    endforeach()
    if(NOT "${mended}" STREQUAL "${folders}")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${mended}")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL _instformer_mend_includes)
