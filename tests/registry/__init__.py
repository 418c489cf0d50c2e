"""Every operator with every solver under every host, as the README promises it."""
