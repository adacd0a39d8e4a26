meson test -C build --wrapper 'sockleak run --'
