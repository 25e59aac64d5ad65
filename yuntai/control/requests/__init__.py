"""What tenants ask for. Each function validates, then writes records, job and token in one transaction."""
