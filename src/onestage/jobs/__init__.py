"""The whole jobs that people ask for, each one call: what the command line and `import onestage` offer."""
