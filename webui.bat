@echo off
rem Starts the web page; the first time it makes an environment, .venv-web, in the folder that this file is in.
setlocal
cd /d "%~dp0"
set "ENVIRONMENT=.venv-web"
if exist "%ENVIRONMENT%\ready" goto start

set "FOUND="
for %%P in ("py -3" "python" "python3") do (
    if not defined FOUND (
        %%~P -c "import sys; sys.exit(sys.version_info < (3, 10))" >nul 2>nul && set "FOUND=%%~P"
    )
)
if not defined FOUND (
    echo Python 3.10 or newer is needed, and was not found. Get it from https://www.python.org/downloads/, then start this again.
    goto stop
)
echo The first start makes an environment in %ENVIRONMENT%. This takes some minutes and about 6 GB ...
%FOUND% -m venv "%ENVIRONMENT%"
if errorlevel 1 (
    echo The environment could not be made in %ENVIRONMENT%.
    goto stop
)
"%ENVIRONMENT%\Scripts\python.exe" -m pip install --quiet --editable ".[web]"
if errorlevel 1 (
    echo The packages could not be installed. The first start needs the internet, and room on the disk.
    goto stop
)
type nul > "%ENVIRONMENT%\ready"

:start
"%ENVIRONMENT%\Scripts\python.exe" scripts\webui.py %*
if errorlevel 1 goto stop
exit /b 0

:stop
pause
exit /b 1
