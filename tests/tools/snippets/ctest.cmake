find_program(SOCKLEAK sockleak REQUIRED)
add_test(NAME server COMMAND ${SOCKLEAK} run -- $<TARGET_FILE:server_test>)
