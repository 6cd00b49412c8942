# cmake --install: the tool, the library, its headers, and the package that find_package(smoe) reads.
include(CMakePackageConfigHelpers)

install(TARGETS smoe EXPORT smoe_targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS smoe_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY smoe/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/smoe FILES_MATCHING PATTERN "*.h" PATTERN "precompiled.h" EXCLUDE)
install(EXPORT smoe_targets NAMESPACE smoe:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/smoe FILE smoe_targets.cmake)
configure_package_config_file(cmake/smoeConfig.cmake.in ${PROJECT_BINARY_DIR}/smoeConfig.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/smoe)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/smoeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/smoeConfig.cmake ${PROJECT_BINARY_DIR}/smoeConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/smoe)
