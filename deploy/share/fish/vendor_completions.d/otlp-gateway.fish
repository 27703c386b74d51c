function __gateway_complete
    env _GATEWAY_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) (commandline -po)[1]
end
for program in gateway otlp-gateway
    complete --command $program --no-files --arguments "(__gateway_complete get-args)" \
        --condition "__gateway_complete is-args"
end
